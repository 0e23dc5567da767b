//! What the sequences have found, each by name, and the flows of real writers that must not be left to chance.
