"""Videos to clips: which files there are, where their shots begin and end, which spans become clips."""
