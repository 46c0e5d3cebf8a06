"""The page: records of any number of versions in one HTML file that needs nothing else."""
