//! Options that must fit each other.

use super::{Config, ConfigError};

/// Most threads or processes of one kind.
const MAX_PARALLEL: usize = 4096;

/// Below this a decoder process cannot hold FFmpeg's libraries and one clip: every video would be refused, and its
/// caller blamed.
const MIN_DECODER_MEMORY: u64 = 512 << 20;

/// Below this the headers of a usual call with a key do not fit: nobody could call, nor ask for health.
const MIN_HEADER_BYTES: u32 = 1024;

impl Config {
    /// Refuses options that contradict each other, naming the key to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (limits, time) = (&self.limits, &self.time);
        at_most("max_prompt_bytes", limits.max_prompt_bytes, "max_message_bytes", limits.max_message_bytes)?;
        at_most("max_image_bytes", limits.max_image_bytes, "max_message_bytes", limits.max_message_bytes)?;
        at_most("max_video_bytes", limits.max_video_bytes, "max_message_bytes", limits.max_message_bytes)?;
        at_most("max_message_bytes", limits.max_message_bytes.get(), "what gRPC allows", u32::MAX.into())?;
        // What one connection can have when it asks piece by piece.
        let frames = time.max_queue_frames.get() / 2;
        at_most("max_rank_images", limits.max_rank_images.get().into(), "half of max_queue_frames", frames)?;
        let bytes = time.max_in_flight_bytes.get() / 2;
        at_most("max_message_bytes", limits.max_message_bytes.get(), "half of max_in_flight_bytes", bytes)?;
        self.check_trust()?;
        let headers = self.connections.max_header_bytes.get();
        if headers < MIN_HEADER_BYTES {
            return Err(ConfigError(format!("max_header_bytes: is {headers}, must be at least {MIN_HEADER_BYTES}")));
        }
        let memory = self.decoding.decoder_memory_bytes.get();
        if memory < MIN_DECODER_MEMORY {
            return Err(ConfigError(format!(
                "decoder_memory_bytes: is {memory}, must be at least {MIN_DECODER_MEMORY}"
            )));
        }
        for (key, count) in [
            ("decoder_workers", self.decoding.decoder_workers),
            ("decode_threads", self.decoding.decode_threads),
            ("threads", self.model.threads),
        ] {
            at_most(key, count.get(), "what any machine has use for", MAX_PARALLEL)?;
        }
        at_most(
            "default_timeout_seconds",
            time.default_timeout_seconds,
            "max_timeout_seconds",
            time.max_timeout_seconds,
        )
    }
}

fn at_most<T: PartialOrd + std::fmt::Display>(key: &str, value: T, of: &str, limit: T) -> Result<(), ConfigError> {
    if value <= limit {
        return Ok(());
    }
    Err(ConfigError(format!("{key}: is {value}, must be at most {limit} ({of})")))
}
