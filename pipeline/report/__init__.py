"""The HTML report of a curation: `write.py` makes it, `histograms.py` and `contact_sheet.py` draw its pictures."""
