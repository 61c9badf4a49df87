"""One file per trained model; a recipe's command name is its file name."""
