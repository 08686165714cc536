//! Jobs: data sets (`datasets`), the log of each job (`log`), the state machine (`registry`), who has the device
//! (`device`), and the one thread that runs jobs (`runner`), which trains through the seam in `trainer`.

pub mod datasets;
pub mod device;
pub mod log;
pub mod registry;
pub mod request;
pub mod runner;
#[cfg(test)]
pub(crate) mod testing;
pub mod trainer;
