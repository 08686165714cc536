use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("client").chain(line.split_whitespace()))
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn nonsense_is_refused_with_words_about_the_value() {
    for (line, words) in [
        ("train --lr 0", "greater than 0"),
        ("train --lr -1", "greater than 0"),
        ("train --lr nan", "not a number"),
        ("train --lr abc", "not a number"),
        ("train --beta1 1", "less than 1"),
        ("train --dropout -0.1", "from 0 to less than 1"),
        ("train --warmup-ratio 1.5", "from 0 to 1"),
        ("train --validation-split 1", "between 0 and 1"),
        ("train --epochs 0", "a whole number from 1 to 10000"),
        ("train --epochs -3", "a whole number from 1 to 10000"),
        ("train --epochs 2.5", "whole number"),
        ("train --batch-size 5000000000", "a whole number from 1 to 4096"),
        ("train --seed -1", "whole number"),
        ("train --train-limit 0", "at least 1"),
        ("train --name a/b", "letters, digits"),
        ("train --precision fp16", "possible values: auto, fp32, bf16"),
        ("train --truncation middle", "possible values: head, tail, head-tail"),
        ("train --freeze-layers -1", "0 or greater"),
        ("train --layer-decay 0", "greater than 0 and at most 1"),
        ("train --layer-decay 1.5", "greater than 0 and at most 1"),
        ("train --label-smoothing 1", "from 0 to less than 1"),
        ("train --class-weights spam", "LABEL=WEIGHT"),
        ("train --focal-gamma 0", "greater than 0"),
        ("train --ema 1", "greater than 0 and less than 1"),
        ("train --r-drop -1", "greater than 0"),
        ("train --reinit-layers 1.5", "whole number"),
        ("train --label-separator ;", "--multi-label"),
        ("train --label-columns a,b --label-column c", "cannot be used with"),
        ("train --encoding klingon", "not the name of an encoding"),
        ("train --delimiter ab", "one character"),
        ("train --missing-label ignore", "possible values: error, drop, keep"),
        ("train --warmup-steps 5 --warmup-ratio 0.1", "cannot be used with"),
        ("train --dry-run --detach", "cannot be used with"),
        ("classify --file texts.txt hello", "cannot be used with"),
        ("models promote a@1 --canary 100%", "less than 100%"),
        ("models promote a@1 --canary=-1%", "from 0"),
        ("models promote a@1 --canary 5% --shadow", "cannot be used with"),
        ("models promote a@1 live --alias live", "cannot be used with"),
        ("models set a --precision fp16", "possible values: default, auto, fp32, bf16, int8"),
        ("classify --truncation middle a", "possible values: right, left, none"),
        ("classify --min-score 1.5 a", "from 0 to 1"),
        ("classify --priority 101 a", "101 is not in -100..=100"),
        ("classify --top-k 0 a", "0 is not in 1.."),
        ("compare one", "2 values required"),
        ("--timeout 0 jobs", "at least 1 ms"),
        ("--timeout soon jobs", "not a time"),
        ("watch 01j --retry-for -1", "0 or greater"),
        ("train --lr 2,5e-5", "the decimal point is a point: 2.5e-5"),
        ("train --lr 2e-5f", "not a number"),
        ("train --epoch 3", "'--epochs'"),
        ("trian", "'train'"),
    ] {
        let error = parse(line).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(words), "{line}: {error:?} lacks {words:?}");
    }
}

#[test]
fn global_flags_stand_before_or_after_the_command() {
    for line in ["--json --daemon gpu:1 jobs", "jobs --json --daemon gpu:1"] {
        let cli = parse(line).expect("parses");
        assert!(cli.global.json);
        assert_eq!(cli.global.daemon, "gpu:1");
    }
}

#[test]
fn help_names_the_exit_codes() {
    let help = Cli::command().render_long_help().to_string();
    assert!(help.contains("Exit codes:") && help.contains("the job failed"), "{help}");
}
