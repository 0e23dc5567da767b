//! Settings that a server in recovery must have at least as large as the server that wrote the WAL had
//! (`CheckRequiredParameterValues` of xlogrecovery.c): otherwise it cannot be read, and stops or waits.
//!
//! `pg_control` has them as five numbers of 32 bits from 180 on, and so begins the record that tells of a change
//! (`xl_parameter_change`), in PostgreSQL 13 to 18.

/// The five numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    numbers: [u32; Self::NAMES.len()],
}

impl Limits {
    /// Their settings, in this order.
    const NAMES: [&str; 5] = [
        "max_connections",
        "max_worker_processes",
        "max_wal_senders",
        "max_prepared_transactions",
        "max_locks_per_transaction",
    ];

    /// What a server has that was told nothing.
    pub const DEFAULT: Self = Self {
        numbers: [100, 8, 10, 0, 64],
    };

    /// Reads them, each by its place among the five.
    pub(in crate::pg) fn read(number: impl Fn(usize) -> Option<u32>) -> Option<Self> {
        let mut numbers = [0; Self::NAMES.len()];
        for (place, field) in numbers.iter_mut().enumerate() {
            *field = number(place)?;
        }
        Some(Self { numbers })
    }

    /// Names of the settings, and what each must be at least.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, u32)> {
        Self::NAMES.into_iter().zip(self.numbers)
    }
}
