//! What a name of a model or an alias may be: it becomes the name of a folder.

/// Characters of a model's name at most.
pub const MAX_NAME: usize = 64;

/// Whether a name of a model or an alias may hold the character.
pub fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}
