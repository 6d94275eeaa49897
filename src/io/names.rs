//! The two spellings of attention tensors in weight files, and the one that the program uses inside (the new one).
//! Called by the folder reader and writer; no other room knows that the old spelling exists.

/// How a weight file spells the four matrices of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// query, key, value, proj_attn: files made before 2023, the hub's DDPM files among them.
    Old,
    /// to_q, to_k, to_v, to_out.0: files that diffusers writes now; the canonical names.
    New,
}

/// (old, new) part of a name after `attentions.J.`.
const SPELLINGS: [(&str, &str); 4] = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

impl Names {
    /// The style of a set of names: old where any attention matrix is spelled the old way.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        if names.into_iter().any(|n| canonical(n) != n) { Self::Old } else { Self::New }
    }

    /// The file's name of a tensor, from its canonical one.
    pub fn in_file(self, canonical: &str) -> String {
        match self {
            Self::New => canonical.to_owned(),
            Self::Old => respell(canonical, SPELLINGS.map(|(old, new)| (new, old))),
        }
    }
}

/// The canonical name of a tensor, from either spelling.
pub fn canonical(file: &str) -> String {
    respell(file, SPELLINGS)
}

/// Replaces the layer's name in `....attentions.J.LAYER.{weight,bias}`; any other name stays.
fn respell(name: &str, spellings: [(&str, &str); 4]) -> String {
    let Some((stem, kind)) = name.rsplit_once('.') else { return name.to_owned() };
    for (from, to) in spellings {
        let Some(block) = stem.strip_suffix(from).and_then(|s| s.strip_suffix('.')) else { continue };
        let mut parts = block.rsplit('.');
        let numbered = parts.next().is_some_and(|j| !j.is_empty() && j.bytes().all(|b| b.is_ascii_digit()));
        if numbered && parts.next() == Some("attentions") {
            return format!("{block}.{to}.{kind}");
        }
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_meet_and_part_again() {
        let pairs = [
            ("mid_block.attentions.0.query.weight", "mid_block.attentions.0.to_q.weight"),
            ("down_blocks.1.attentions.12.key.bias", "down_blocks.1.attentions.12.to_k.bias"),
            ("up_blocks.3.attentions.0.value.bias", "up_blocks.3.attentions.0.to_v.bias"),
            ("up_blocks.3.attentions.1.proj_attn.weight", "up_blocks.3.attentions.1.to_out.0.weight"),
            ("mid_block.attentions.0.group_norm.weight", "mid_block.attentions.0.group_norm.weight"),
            ("conv_in.weight", "conv_in.weight"),
            ("adapter_list.3.weight", "adapter_list.3.weight"),
        ];
        for (old, new) in pairs {
            assert_eq!(canonical(old), new);
            assert_eq!(canonical(new), new);
            assert_eq!(Names::Old.in_file(new), old);
            assert_eq!(Names::New.in_file(new), new);
        }
        assert_eq!(Names::of(pairs.map(|(old, _)| old)), Names::Old);
        assert_eq!(Names::of(pairs.map(|(_, new)| new)), Names::New);
    }

    #[test]
    fn names_outside_attention_layers_stay() {
        for name in ["query.weight", "attentions.x.key.weight", "block.0.value.bias", "attentions.query.weight", "key"]
        {
            assert_eq!(canonical(name), name);
        }
    }
}
