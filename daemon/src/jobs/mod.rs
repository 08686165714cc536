//! Jobs: data sets (`datasets`), the log of each job (`log`), the states that follow each other (`lifecycle`), who changes
//! them (`registry`), what becomes of jobs when the daemon comes back (`restart`) and of what nobody needs (`sweep`), who
//! has the device (`device`), what was read for the job that comes next (`ahead`), which traces jobs belong to (`traces`), how
//! many there are (`count`), and the one thread that runs jobs (`runner`), which trains through the seam in `trainer`.

pub mod ahead;
pub mod count;
pub mod datasets;
pub mod device;
pub mod lifecycle;
pub mod log;
pub mod promoter;
pub mod registry;
pub mod request;
pub mod restart;
pub mod runner;
pub mod sweep;
#[cfg(test)]
pub(crate) mod testing;
pub mod traces;
pub mod trainer;
