"""What a finished run recommends: the run opened again, histories found in its catalogue, ranked items out."""
