//! The random streams of a device.

/// What a stream of random numbers is for. Streams of one device are independent of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Values in telemetry payloads.
    Telemetry,
    /// Values in command replies.
    Replies,
    /// When to send: the first moment and the jitter of the interval; whether a scripted command fails.
    Schedule,
    /// Whether a job fails.
    Jobs,
}

/// A small generator of random numbers, the same on every machine and in every version of paquebot.
///
/// It is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): 8 bytes of
/// state, good enough for simulated values, and not for keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random(u64);

/// What a template remembers of one device: its random stream, its count of messages and its walks.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceState {
    pub(super) random: Random,
    pub(super) seq: u64,
    pub(super) walks: Box<[f64]>,
}

impl Random {
    /// A generator that starts from a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The generator of one device for one purpose: it depends on the arguments alone.
    #[must_use]
    pub fn for_device(fleet_seed: u64, group: &str, index: u64, stream: Stream) -> Self {
        let stream = match stream {
            Stream::Telemetry => 1,
            Stream::Replies => 2,
            Stream::Schedule => 3,
            Stream::Jobs => 4,
        };
        // FNV-1a of the name: the hashers of the standard library promise nothing between versions.
        let group = group
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        let seed = [group, index, stream]
            .into_iter()
            .fold(mix(fleet_seed), |seed, part| {
                mix(seed.wrapping_add(GAMMA) ^ mix(part.wrapping_add(GAMMA)))
            });
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// A number in [0, 1).
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits are exactly what an f64 holds"
    )]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number below `limit`, each equally likely; 0 when `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 {
            return 0;
        }
        // Lemire's method: the high half of a product, drawn again in the rare case that would favour some.
        let unfair = limit.wrapping_neg() % limit;
        loop {
            let product = u128::from(self.bits()) * u128::from(limit);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the low and the high half of the product are meant"
            )]
            let (low, high) = (product as u64, (product >> 64) as u64);
            if low >= unfair {
                return high;
            }
        }
    }

    /// A whole number from `min` to `max`, both included; `min` when they are the wrong way round.
    pub fn int(&mut self, min: i64, max: i64) -> i64 {
        if max <= min {
            return min;
        }
        let span = max.wrapping_sub(min).cast_unsigned();
        let offset = match span.checked_add(1) {
            Some(count) => self.below(count),
            None => self.bits(),
        };
        min.wrapping_add(offset.cast_signed())
    }

    /// A number of the normal distribution with mean 0 and standard deviation 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        // 1 - unit() is in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// `true` with probability `p`: never at 0, always at 1.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs for seed 1234567 as published with the reference implementation.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.bits(), 6_457_827_717_110_365_317);
        assert_eq!(random.bits(), 3_203_168_211_198_807_973);
        assert_eq!(random.bits(), 9_817_491_932_198_370_423);
    }

    #[test]
    fn each_part_of_the_address_changes_the_stream() {
        let first =
            |seed, group, index, stream| Random::for_device(seed, group, index, stream).bits();
        let base = first(42, "lab", 7, Stream::Telemetry);
        assert_eq!(base, first(42, "lab", 7, Stream::Telemetry));
        for other in [
            first(43, "lab", 7, Stream::Telemetry),
            first(42, "lap", 7, Stream::Telemetry),
            first(42, "lab", 8, Stream::Telemetry),
            first(42, "lab", 7, Stream::Replies),
            first(42, "lab", 7, Stream::Schedule),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn whole_numbers_reach_both_ends_and_no_further() {
        let mut random = Random::new(1);
        let mut seen = [0u32; 4];
        for _ in 0..4_000 {
            let value = random.int(-1, 2);
            seen[usize::try_from(value + 1).unwrap()] += 1;
        }
        assert!(seen.iter().all(|count| *count > 800), "{seen:?}");
        for _ in 0..100 {
            random.int(i64::MIN, i64::MAX);
            assert_eq!(random.int(5, 5), 5);
            assert_eq!(random.below(1), 0);
        }
    }

    #[test]
    fn the_normal_distribution_has_its_mean_and_spread() {
        let mut random = Random::new(2);
        let draws: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn certain_and_impossible_stay_so() {
        let mut random = Random::new(3);
        assert!((0..1_000).all(|_| random.chance(1.0)));
        assert!((0..1_000).all(|_| !random.chance(0.0)));
    }
}
