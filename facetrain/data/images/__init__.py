"""One image: decode, judge, find the face and its landmarks, align."""
