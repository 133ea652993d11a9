"""One call being recorded: the decorator, its context, and the record it becomes."""
