"""One round: who is asked, who has answered, when it is over."""
