"""The book's own code: a folder for each chapter, and what chapters share."""
