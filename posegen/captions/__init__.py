"""What is to be seen, in a sentence: by a vision-language model (`qwen.py`), with one word for the person.

Here is what the model is asked, of a clip's frames and of a picture.
"""

QUESTION = (
    "These are frames of one video of one person, in order. Describe in one sentence the person (say woman, girl, "
    "man, boy or person once), the clothing, what the person does, the place and the camera."
)
PICTURE_QUESTION = (
    "This is a picture of one person. Describe in one sentence the person (say woman, girl, man, boy or person once), "
    "the clothing and the place."
)
