"""The process that joins the halves: it claims, sends, settles, and reacts. For `worker` and `sweep`."""
