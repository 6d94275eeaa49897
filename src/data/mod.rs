//! Images as training data: decoding, hold-out, order.
