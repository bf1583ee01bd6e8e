"""Programs: started, followed, stopped, found again; and the jobs that they carry out."""
