"""The methods: each file owns its loss and nothing else; `airlib.adaptation` owns the loop."""
