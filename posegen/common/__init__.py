"""What every part of the library uses: storage, files, downloaded weights, progress, CPU times."""
