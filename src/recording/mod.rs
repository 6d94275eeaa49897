//! What a computation is before it runs: a list of plain ops over virtual buffers.
