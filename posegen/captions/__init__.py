"""What is to be seen, in a sentence: by a vision-language model, with one word for the person."""
