"""Files from outside: bounded, probed in a process of their own, kept until they are used."""
