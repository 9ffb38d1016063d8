"""Files from outside.

- `uploads.py`: takes them, within limits, and keeps them under the job's id;
- `inspection.py`: finds out what they hold, in a process that may die;
- `scratch.py`: folders on the local disk that are cleaned up after killed processes.
"""
