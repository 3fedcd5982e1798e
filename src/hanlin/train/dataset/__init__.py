"""Records to micro-batches: encoding, checking, packing, sampling."""
