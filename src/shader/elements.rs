//! Shaders are written in f32; where a binding's elements are kept otherwise, the rendered text is rewritten, and everything
//! between loads and stores stays f32. In f16, what is loaded is widened and what is stored is rounded. In pairs, vectors of four are
//! two of 64 bits with the same bits: CPU rasterisers load and store lane by lane and value by value, so that half as many cost
//! half as much. Without one of these conversions a text does not compile, or computes in f16, which the conformance tests notice.
//! Called by `gpu::pipeline`, `doctor` and the shader tests.

use crate::error::{Error, Result};
use crate::shader::card::Binding;
use std::collections::BTreeMap;
use std::ops::Range;

/// How a binding's elements are kept.
enum Form {
    /// This type, f32 or a vector of it, in f16.
    Half(String),
    /// Four f32 in two u64.
    Pairs,
}

impl Form {
    fn load(&self, place: &str) -> String {
        match self {
            Self::Half(of) => format!("{of}({place})"),
            Self::Pairs => format!("from_pairs({place})"),
        }
    }

    fn store(&self, value: &str) -> String {
        match self {
            Self::Half(of) => format!("{}({value})", half_type(of)),
            Self::Pairs => format!("to_pairs({value})"),
        }
    }
}

/// The text behind what is in pairs. Little-endian, as every device of WebGPU.
const PAIRS: &str = "
fn from_pairs(pairs: vec2<u64>) -> vec4<f32> {
    let low = vec2<u32>(pairs);
    let high = vec2<u32>(pairs >> vec2<u32>(32u, 32u));
    return bitcast<vec4<f32>>(vec4<u32>(low.x, high.x, low.y, high.y));
}

fn to_pairs(values: vec4<f32>) -> vec2<u64> {
    let bits = bitcast<vec4<u32>>(values);
    return vec2<u64>(bits.xz) | (vec2<u64>(bits.yw) << vec2<u32>(32u, 32u));
}
";

fn fail(stem: &str, message: String) -> Error {
    Error::Shader { file: format!("{stem}.wgsl"), message }
}

/// The WGSL `text` of `stem` with the bindings of `half` (bit i: binding i, counted from 0) in f16.
///
/// # Errors
/// `Shader` where such a binding is no storage of f32 or vectors of f32, or is changed in place.
pub fn in_f16(stem: &str, text: &str, bindings: &[Binding], half: u32) -> Result<String> {
    if half == 0 {
        return Ok(text.to_owned());
    }
    let mut forms = BTreeMap::new();
    let mut text = text.to_owned();
    for (_, binding) in bindings.iter().enumerate().filter(|(i, _)| half >> i & 1 == 1) {
        let known = declaration(&text, binding.name).filter(|d| d.storage && is_float(&d.of));
        let declared = known.ok_or_else(|| fail(stem, format!("{} cannot be in f16", binding.name)))?;
        text.replace_range(declared.named, &half_type(&declared.of));
        forms.insert(binding.name, Form::Half(declared.of));
    }
    let body = convert(&text, &forms).map_err(|message| fail(stem, message))?;
    let enable = if body.contains("enable f16;") { "" } else { "enable f16;\n" };
    Ok(format!("{enable}{body}"))
}

/// The WGSL `text` of `stem` with every binding of vectors of four f32 in pairs; those in f16 stay what they are.
///
/// # Errors
/// `Shader` where the text cannot be read.
pub fn in_pairs(stem: &str, text: &str, bindings: &[Binding]) -> Result<String> {
    let mut forms = BTreeMap::new();
    let mut text = text.to_owned();
    for binding in bindings {
        if let Some(declared) = declaration(&text, binding.name).filter(|d| d.of == "vec4<f32>") {
            text.replace_range(declared.named, "vec2<u64>");
            forms.insert(binding.name, Form::Pairs);
        }
    }
    if forms.is_empty() {
        return Ok(text);
    }
    Ok(convert(&text, &forms).map_err(|message| fail(stem, message))? + PAIRS)
}

/// Where an array is declared.
struct Declaration {
    /// Whether it is storage, and not a window of it.
    storage: bool,
    /// The elements' type, and where in the text it is named, perhaps by an alias.
    of: String,
    named: Range<usize>,
}

/// The declaration of the array `name`.
fn declaration(text: &str, name: &str) -> Option<Declaration> {
    let declaration = format!("> {name}: array<");
    let line_of = |at: usize| text[..at].rsplit('\n').next().unwrap_or_default();
    let found = text.match_indices(&declaration).map(|(at, _)| at).filter(|&at| line_of(at).contains("@binding("));
    let at = found.last()?;
    let first = at + declaration.len();
    let inside = &text[first..first + text[first..].find(">;")?];
    let named = inside.split(", ").next().unwrap_or(inside);
    let of = match text.split_once(&format!("alias {named} = ")) {
        Some((_, rest)) => rest.split_once(';')?.0,
        None => named,
    };
    let storage = line_of(at).contains("var<storage");
    Some(Declaration { storage, of: of.to_owned(), named: first..first + named.len() })
}

/// Whether f16 has the same.
fn is_float(of: &str) -> bool {
    matches!(of, "f32" | "vec2<f32>" | "vec4<f32>")
}

fn half_type(of: &str) -> String {
    of.replace("f32", "f16")
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

/// `x[i]` as it is loaded, and `y[i] = e;` as e is stored, for every array of `forms` and in every index and value too. Identifiers
/// are taken whole, members and comments left as they are.
fn convert(text: &str, forms: &BTreeMap<&str, Form>) -> std::result::Result<String, String> {
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
            match forms.get(name).filter(|_| !member && bytes.get(end) == Some(&b'[')) {
                None => out.push_str(name),
                Some(form) => {
                    let close = closing(text, end + 1).ok_or_else(|| format!("{name}[ is not closed"))?;
                    let place = format!("{name}[{}]", convert(&text[end + 1..close], forms)?);
                    end = close + 1;
                    let after = text[end..].trim_start();
                    let operator = ["=", "+=", "-=", "*=", "/="].into_iter().find(|op| after.starts_with(op));
                    let operator = operator.filter(|_| !after.starts_with("=="));
                    if let Some(operator) = operator {
                        let value = &after[operator.len()..];
                        let length = value.find(';').ok_or_else(|| format!("a store to {name} has no end"))?;
                        let value = convert(value[..length].trim(), forms)?;
                        end = text.len() - after.len() + operator.len() + length;
                        let value = match (operator.strip_suffix('='), form) {
                            (None | Some(""), _) => value,
                            (Some(_), Form::Half(_)) => return Err(format!("{name} is changed in place")),
                            (Some(sign), Form::Pairs) => format!("{} {sign} ({value})", form.load(&place)),
                        };
                        out.push_str(&format!("{place} = {}", form.store(&value)));
                    } else {
                        out.push_str(&form.load(&place));
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
    fn pairs_hold_vectors_of_four_in_storage_and_in_windows() {
        let text = TEXT.replace("table: array<f32>", "table: array<vec4<f16>>") + "fn g() { y[1] += w[2] * 2.0; }\n";
        let text =
            text.replace("struct Row", "@group(0) @binding(4) var<uniform> w: array<vec4<f32>, 64>;\nstruct Row");
        let rewritten = in_pairs("f", &text, &[read("x"), read("table"), update("y"), read("w")]).unwrap();
        for expected in [
            "x: array<vec2<u64>>;",
            "table: array<vec4<f16>>;",
            "y: array<vec2<u64>>;",
            "w: array<vec2<u64>, 64>;",
            "let x1 = from_pairs(x[row.x + u32(table[i])]).x;",
            "y[i + u32(table[0])] = to_pairs(from_pairs(x[i]) * x1);",
            "y[1] = to_pairs(from_pairs(y[1]) + (from_pairs(w[2]) * 2.0));",
        ] {
            assert!(rewritten.contains(expected), "{expected} in {rewritten}");
        }
        let plain = "@group(0) @binding(1) var<storage, read> x: array<f32>;\n";
        assert_eq!(in_pairs("f", plain, &[read("x")]).unwrap(), plain);
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
