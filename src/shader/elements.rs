//! Shaders are written in f32; where a binding's elements are f16, the rendered text is rewritten: what is loaded is widened,
//! what is stored is rounded, and everything between stays f32. Without one of these conversions a text does not compile, or computes
//! in f16, which the conformance tests notice.
//! Called by `gpu::pipeline`, `doctor` and the shader tests.

use crate::error::{Error, Result};
use crate::shader::card::Binding;
use std::collections::BTreeMap;

/// The WGSL `text` of `stem` with the bindings of `half` (bit i: binding i, counted from 0) in f16.
///
/// # Errors
/// `Shader` where such a binding is no storage of f32 or vectors of f32, or is changed in place.
pub fn in_f16(stem: &str, text: &str, bindings: &[Binding], half: u32) -> Result<String> {
    if half == 0 {
        return Ok(text.to_owned());
    }
    let fail = |message: String| Error::Shader { file: format!("{stem}.wgsl"), message };
    let mut types = BTreeMap::new();
    let mut text = text.to_owned();
    for (_, binding) in bindings.iter().enumerate().filter(|(i, _)| half >> i & 1 == 1) {
        let declared = declare(&text, binding.name);
        let (rewritten, of) = declared.ok_or_else(|| fail(format!("{} cannot be in f16", binding.name)))?;
        types.insert(binding.name, of);
        text = rewritten;
    }
    let body = convert(&text, &types).map_err(fail)?;
    let enable = if body.contains("enable f16;") { "" } else { "enable f16;\n" };
    Ok(format!("{enable}{body}"))
}

/// The text with `name` declared as an array of f16, and what it was an array of.
fn declare(text: &str, name: &str) -> Option<(String, String)> {
    let declaration = format!("> {name}: array<");
    let before = text.match_indices(&declaration).map(|(at, _)| at);
    let at =
        before.filter(|&at| text[..at].rsplit('\n').next().is_some_and(|line| line.contains("var<storage"))).last()?;
    let first = at + declaration.len();
    let last = first + text[first..].find(">;")?;
    let named = &text[first..last];
    let alias = format!("alias {named} = ");
    let of = match text.split_once(&alias) {
        Some((_, rest)) => rest.split_once(';')?.0,
        None => named,
    };
    let stored = half_type(of)?;
    Some((format!("{}{stored}{}", &text[..first], &text[last..]), of.to_owned()))
}

/// The type in f16, of f32 and its vectors.
fn half_type(of: &str) -> Option<String> {
    matches!(of, "f32" | "vec2<f32>" | "vec4<f32>").then(|| of.replace("f32", "f16"))
}

/// Whether identifiers may have it.
fn is_name(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

/// The end of what begins behind an opening bracket at `from`: the place of its closing one.
fn closing(text: &str, from: usize) -> Option<usize> {
    let mut depth = 1;
    for (i, c) in text.bytes().enumerate().skip(from) {
        match c {
            b'[' => depth += 1,
            b']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(i);
        }
    }
    None
}

/// `x[i]` as `T(x[i])`, and `y[i] = e;` as `y[i] = H(e);`, for every array of `types` and in every index and value too. Identifiers
/// are taken whole, members and comments left as they are.
fn convert(text: &str, types: &BTreeMap<&str, String>) -> std::result::Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len() + 256);
    let mut at = 0;
    while at < bytes.len() {
        let mut end = at + 1;
        if text[at..].starts_with("//") {
            end = text[at..].find('\n').map_or(bytes.len(), |n| at + n);
            out.push_str(&text[at..end]);
        } else if is_name(bytes[at]) {
            end = (at..bytes.len()).find(|&i| !is_name(bytes[i])).unwrap_or(bytes.len());
            let name = &text[at..end];
            let member = at > 0 && bytes[at - 1] == b'.';
            match types.get(name).filter(|_| !member && bytes.get(end) == Some(&b'[')) {
                None => out.push_str(name),
                Some(of) => {
                    let close = closing(text, end + 1).ok_or_else(|| format!("{name}[ is not closed"))?;
                    let place = format!("{name}[{}]", convert(&text[end + 1..close], types)?);
                    end = close + 1;
                    let after = text[end..].trim_start();
                    if let Some(value) = after.strip_prefix('=').filter(|rest| !rest.starts_with('=')) {
                        let length = value.find(';').ok_or_else(|| format!("a store to {name} has no end"))?;
                        let stored = of.replace("f32", "f16");
                        out.push_str(&format!("{place} = {stored}({})", convert(value[..length].trim(), types)?));
                        end = text.len() - value.len() + length;
                    } else if ["+=", "-=", "*=", "/="].iter().any(|op| after.starts_with(op)) {
                        return Err(format!("{name} is changed in place"));
                    } else {
                        out.push_str(&format!("{of}({place})"));
                    }
                }
            }
        } else {
            end = (end..=bytes.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(bytes.len());
            out.push_str(&text[at..end]);
        }
        at = end;
    }
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::shader::card::{read, update, write};

    const TEXT: &str = "// y[i] = x[i];\nalias Lanes = vec4<f32>;\nstruct Row { x: u32 }\n\
        @group(0) @binding(1) var<storage, read> x: array<Lanes>;\n\
        @group(0) @binding(2) var<storage, read> table: array<f32>;\n\
        @group(0) @binding(3) var<storage, read_write> y: array<Lanes>;\n\
        fn f(row: Row, i: u32) { let x1 = x[row.x + u32(table[i])].x; if x[i].x == x1 { y[i + u32(table[0])] = x[i] * x1; } }\n";

    #[test]
    fn loads_are_widened_and_stores_rounded_in_the_named_bindings_alone() {
        let bindings = [read("x"), read("table"), write("y")];
        let rewritten = in_f16("f", TEXT, &bindings, 0b101).unwrap();
        let expected = "enable f16;\n// y[i] = x[i];\nalias Lanes = vec4<f32>;\nstruct Row { x: u32 }\n\
            @group(0) @binding(1) var<storage, read> x: array<vec4<f16>>;\n\
            @group(0) @binding(2) var<storage, read> table: array<f32>;\n\
            @group(0) @binding(3) var<storage, read_write> y: array<vec4<f16>>;\n\
            fn f(row: Row, i: u32) { let x1 = vec4<f32>(x[row.x + u32(table[i])]).x; if vec4<f32>(x[i]).x == x1 \
            { y[i + u32(table[0])] = vec4<f16>(vec4<f32>(x[i]) * x1); } }\n";
        assert_eq!(rewritten, expected);
        let table = in_f16("f", TEXT, &bindings, 0b010).unwrap();
        assert!(
            table.contains("x[row.x + u32(f32(table[i]))].x")
                && table.contains("y[i + u32(f32(table[0]))] = x[i] * x1;")
        );
        assert_eq!(in_f16("f", TEXT, &bindings, 0).unwrap(), TEXT);
    }

    #[test]
    fn what_cannot_be_f16_is_refused() {
        let bindings = [read("x"), update("y")];
        for (from, to) in [
            ("y[i + u32(table[0])] =", "y[i + u32(table[0])] +="),
            ("array<Lanes>", "array<vec4<u32>>"),
            ("var<storage, read> x", "var<uniform> x"),
        ] {
            assert!(TEXT.contains(from));
            let refused = in_f16("f", &TEXT.replace(from, to), &bindings, 0b11).unwrap_err().to_string();
            assert!(refused.contains("f.wgsl"), "{refused}");
        }
    }

    #[test]
    fn what_enables_f16_already_does_so_once() {
        let text = "enable f16;\n@group(0) @binding(1) var<storage, read> x: array<f32>;\n";
        let rewritten = in_f16("f", text, &[read("x")], 1).unwrap();
        assert_eq!(rewritten.matches("enable f16;").count(), 1);
        assert!(rewritten.contains("x: array<f16>;"));
    }
}
