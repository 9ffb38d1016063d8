"""Jobs, their tasks and the queue, in a database that any process may open.

- `database.py`: all parts together; `jobs.py`: for clients; `task_queue.py`: for workers; `deliveries.py`: webhooks;
- `storage.py`, `tables.py`, `queries.py`: the open database, its tables, statements that several parts share;
- `rows.py`, `transitions.py`: the values that it gives and takes, and which states may follow each other;
- `schedule.py`, `admission.py`, `eta.py`: which task comes next, whether there is room for its record, and when a
  job will be done: pure functions;
- `artifacts.py`: the files of jobs.
"""
