//! One file a command: its options, then its run. The only room that prints.
