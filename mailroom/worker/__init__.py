"""The process that joins the halves: it claims, sends, settles, and reacts. For the commands that send."""
