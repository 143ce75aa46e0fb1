"""Claims tried: parity with the peers, files of other programs, every command of the pages."""
