//! Messages between the pool and a worker.
