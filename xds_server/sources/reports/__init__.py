"""What reporters beside the runtimes tell, as a source. Their streams are the transport's."""
