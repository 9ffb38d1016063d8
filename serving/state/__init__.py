"""Jobs, their tasks and the queue, in a database that any process may open."""
