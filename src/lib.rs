//! placeholder
#[cfg(feature = "cli")]
pub mod cli {
    //! placeholder
    pub mod check;
}
#[cfg(feature = "cli")]
pub mod fleet_file;
#[cfg(feature = "cli")]
pub mod template;
