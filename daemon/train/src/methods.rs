//! The training methods that are off by default, and what only an encoder can tell of them.

pub use hone::settings::methods::{ClassWeights, Methods};

use hone_base::error::{Error, Result};

/// Checks what only an encoder of so many layers can tell.
///
/// # Errors
/// When more layers are frozen or start anew than there are.
pub fn check(methods: &Methods, layers: usize) -> Result<()> {
    let too_many = |field: &str, count: u32| {
        Err(Error::invalid(format!(
            "`{field}` is {count}, but the encoder has only {layers} layers; use at most {layers}"
        )))
    };
    let (frozen, anew) = (methods.freeze_layers, methods.reinit_layers);
    if frozen as usize > layers {
        return too_many("freeze_layers", frozen);
    }
    if anew as usize > layers {
        return too_many("reinit_layers", anew);
    }
    if frozen as usize + anew as usize > layers {
        return Err(Error::invalid(format!(
            "`freeze_layers = {frozen}` and `reinit_layers = {anew}` overlap in an encoder of {layers} layers, and a \
             layer that starts anew has to learn; together use at most {layers}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(methods: Methods) -> String {
        check(&methods, 6).unwrap_err().message().to_owned()
    }

    #[test]
    fn no_more_layers_than_there_are_can_be_frozen_or_start_anew() {
        let frozen = |freeze_layers| Methods { freeze_layers, ..Methods::default() };
        let anew = |reinit_layers| Methods { reinit_layers, ..Methods::default() };
        assert!(check(&frozen(6), 6).is_ok() && check(&anew(6), 6).is_ok());
        assert_eq!(
            refusal(frozen(7)),
            "`freeze_layers` is 7, but the encoder has only 6 layers; use at most 6"
        );
        assert!(refusal(anew(u32::MAX)).starts_with("`reinit_layers` is 4294967295"));
    }

    #[test]
    fn a_layer_is_not_frozen_and_new_at_once() {
        let both =
            |freeze_layers, reinit_layers| Methods { freeze_layers, reinit_layers, ..Methods::default() };
        assert!(check(&both(4, 2), 6).is_ok());
        assert!(refusal(both(4, 3)).starts_with("`freeze_layers = 4` and `reinit_layers = 3` overlap"));
    }
}
