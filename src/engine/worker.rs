//! The thread that owns a device.
