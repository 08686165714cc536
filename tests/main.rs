//! Tests of the whole: parity with the reference implementations, and real daemons over real sockets.

mod bad_input;
mod cli;
mod client_cases;
mod data_cases;
mod dry_run;
mod engine;
mod families;
mod folder_cases;
mod harness;
mod lane_cases;
mod lasting;
mod messages;
mod methods;
mod observe;
mod optimizer;
mod overload;
mod parity;
mod promotion_cases;
mod resume;
mod service;
mod serving_cases;
mod training;
mod training_cases;
