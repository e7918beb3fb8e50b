//! What names, passwords and devices may be. The field messages are those the client SDKs know.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose};

/// Field errors by field, as a 422 tells them.
pub type FieldErrors = BTreeMap<&'static str, Vec<String>>;

const PASSWORD_BYTES: usize = 1_024;
pub(super) const DISPLAY_NAME_CHARS: usize = 64;

/// # Errors
/// Every rule that is broken, by field.
pub(super) fn check_account(username: &str, password: &str, display_name: Option<&str>) -> Result<(), FieldErrors> {
    let mut errors = FieldErrors::new();
    let mut fail = |field, message: String| errors.entry(field).or_default().push(message);
    let length = username.chars().count();
    if length < 3 {
        fail("username", "should be at least 3 character(s)".into());
    } else if length > 32 {
        fail("username", "should be at most 32 character(s)".into());
    } else if !username.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        fail("username", "has invalid format".into());
    }
    if password.chars().count() < 8 {
        fail("password", "should be at least 8 character(s)".into());
    } else if password.len() > PASSWORD_BYTES {
        fail("password", format!("should be at most {PASSWORD_BYTES} byte(s)"));
    }
    if display_name.is_some_and(|name| name.chars().count() > DISPLAY_NAME_CHARS) {
        fail("display_name", format!("should be at most {DISPLAY_NAME_CHARS} character(s)"));
    }
    // PostgreSQL's text has no NUL.
    if display_name.is_some_and(|name| name.contains('\0')) {
        fail("display_name", "has invalid format".into());
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

pub(super) fn device_id_is_valid(device_id: &str) -> bool {
    (1..=128).contains(&device_id.len()) && !device_id.contains('\0')
}

/// The secret's bytes: 32–128 of them in any base64 dialect. None: not base64, too short or too long.
pub(super) fn device_secret(text: &str) -> Option<Vec<u8>> {
    if text.len() > 256 {
        return None;
    }
    let engines = [
        &general_purpose::STANDARD,
        &general_purpose::STANDARD_NO_PAD,
        &general_purpose::URL_SAFE,
        &general_purpose::URL_SAFE_NO_PAD,
    ];
    let bytes = engines.iter().find_map(|engine| engine.decode(text).ok())?;
    (32..=128).contains(&bytes.len()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(username: &str, password: &str) -> Vec<&'static str> {
        check_account(username, password, None).err().map(|e| e.into_keys().collect()).unwrap_or_default()
    }

    #[test]
    fn accounts_follow_the_rules() {
        assert!(broken("Ada_L-1", "12345678").is_empty());
        assert_eq!(broken("ab", "12345678"), ["username"]);
        assert_eq!(broken(&"a".repeat(33), "12345678"), ["username"]);
        assert_eq!(broken("er in!", "12345678"), ["username"]);
        assert_eq!(broken("ädа", "12345678"), ["username"]);
        assert_eq!(broken("x", "short"), ["password", "username"]);
        assert_eq!(broken("abc", &"x".repeat(1_025)), ["password"]);
        assert!(check_account("abc", "12345678", Some(&"x".repeat(65))).is_err());
    }

    #[test]
    fn field_messages_are_the_recorded_ones() {
        let errors = check_account("x", "abc", None).expect_err("broken");
        assert_eq!(errors["username"], ["should be at least 3 character(s)"]);
        assert_eq!(errors["password"], ["should be at least 8 character(s)"]);
    }

    #[test]
    fn device_secrets_are_random_enough() {
        assert_eq!(device_secret("9nm7kLllYdsLmhCyxZk/m8JPbsuCDG2uq6nAutxj6lg=").map(|b| b.len()), Some(32));
        assert!(device_secret(&general_purpose::URL_SAFE_NO_PAD.encode([7_u8; 128])).is_some());
        assert!(device_secret(&general_purpose::STANDARD.encode([7_u8; 129])).is_none());
        assert!(device_secret(&general_purpose::STANDARD.encode([7_u8; 31])).is_none());
        assert!(device_secret("not base64 at all, not even nearly!").is_none());
        assert!(!device_id_is_valid("") && !device_id_is_valid(&"x".repeat(129)) && device_id_is_valid("dev-1"));
    }
}
