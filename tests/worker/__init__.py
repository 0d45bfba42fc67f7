"""What joins the queue and a transport, by hand, in threads and in processes."""
