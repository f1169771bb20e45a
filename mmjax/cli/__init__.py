"""The command line `mmjax`."""
