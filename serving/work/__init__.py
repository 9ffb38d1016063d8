"""What the server's workers do: they claim tasks from the database, do them and publish the results, without Ray."""
