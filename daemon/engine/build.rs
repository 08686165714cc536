//! With the feature `cuda`, compiles the kernels for GPUs, once for each precision. Needs nvcc: what `NVCC` names, else
//! the one in `CUDA_HOME` (or `CUDA_PATH`), else the one on the path. They are compiled for the chip that
//! `CUDA_COMPUTE_CAP` names (90 for Hopper), else for that of this machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const FOLDER: &str = "src/kernels/cuda";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed={FOLDER}");
    let (nvcc, chip) = (nvcc(), chip());
    let Some(folder) = env::var_os("OUT_DIR").map(PathBuf::from) else { stop("cargo set no OUT_DIR") };
    for (name, define) in [("kernels_fp32", None), ("kernels_bf16", Some("-DREAL_IS_BF16"))] {
        let mut command = Command::new(&nvcc);
        command.args(["-fatbin", "-O3", "-std=c++17"]);
        // The chip's own code, and what newer ones can be served from.
        command.arg(format!("-gencode=arch=compute_{chip},code=[sm_{chip},compute_{chip}]"));
        command.args(define).arg("-o").arg(folder.join(name).with_extension("fatbin"));
        match command.arg(Path::new(FOLDER).join("kernels.cu")).status() {
            Ok(status) if status.success() => {}
            Ok(status) => {
                stop(&format!("nvcc could not compile the kernels ({status}); its output is above"))
            }
            Err(error) => stop(&format!(
                "cannot run nvcc ({}): {error}; install the CUDA toolkit, set CUDA_HOME to its folder, or build \
                 without --features cuda",
                nvcc.display()
            )),
        }
    }
}

fn nvcc() -> PathBuf {
    let set = |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("NVCC")
        .or_else(|| set("CUDA_HOME").or_else(|| set("CUDA_PATH")).map(|folder| folder.join("bin/nvcc")))
        .unwrap_or_else(|| "nvcc".into())
}

/// The compute capability, as in "90".
fn chip() -> String {
    if let Ok(chip) = env::var("CUDA_COMPUTE_CAP") {
        return chip.replace('.', "");
    }
    let output =
        Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match text.lines().next().map(|line| line.trim().replace('.', "")) {
        Some(chip) if !chip.is_empty() && chip.bytes().all(|byte| byte.is_ascii_digit()) => chip,
        _ => stop(
            "there is no GPU to compile the kernels for: set CUDA_COMPUTE_CAP, for example to 90 for Hopper",
        ),
    }
}

fn stop(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1);
}
