"""From a record to the endpoint: the spool on disk, the sender thread, the transport."""
