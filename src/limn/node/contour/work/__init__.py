"""What a worker does with a job: a warm ensemble, the job's files, its results."""
