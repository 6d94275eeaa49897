//! Gradients on disk while they are compared: K x H of them would not fit in memory for a large model. The folder goes when the
//! store does. Called by `gradients`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};

use crate::error::{Error, Result};

/// Elements of each gradient that are in memory at once.
const CHUNK: usize = 1 << 16;

/// Vectors of equal length, one file each.
pub struct Store {
    folder: PathBuf,
    files: Vec<PathBuf>,
}

impl Store {
    /// An empty store; what a killed process left at this path is removed.
    pub fn create(folder: &Path) -> Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(folder).map_err(Error::io(folder, "remove"))?;
        }
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
        Ok(Self { folder: folder.to_path_buf(), files: Vec::new() })
    }

    pub fn push(&mut self, values: &[f32]) -> Result<()> {
        let path = self.folder.join(format!("{}.f32", self.files.len()));
        let write = |path: &Path| File::create(path)?.write_all(bytemuck::cast_slice(values));
        write(&path).map_err(Error::io(&path, "write"))?;
        self.files.push(path);
        Ok(())
    }

    /// <v_i, v_j> of all pairs, in f64.
    pub fn products(&self) -> Result<Vec<Vec<f64>>> {
        let open = |path: &PathBuf| File::open(path).map_err(Error::io(path, "open"));
        let mut files = self.files.iter().map(open).collect::<Result<Vec<_>>>()?;
        let n = files.len();
        let mut products = Mat::zeros(n, n);
        loop {
            let mut chunks = Vec::with_capacity(n);
            for (file, path) in files.iter_mut().zip(&self.files) {
                chunks.push(chunk(file).map_err(Error::io(path, "read"))?);
            }
            let width = chunks.first().map_or(0, Vec::len);
            if width == 0 {
                return Ok((0..n).map(|i| (0..n).map(|j| products[(i, j)]).collect()).collect());
            }
            let columns = Mat::from_fn(width, n, |element, i| f64::from(chunks[i][element]));
            matmul(&mut products, Accum::Add, columns.transpose(), &columns, 1.0, Par::rayon(0));
        }
    }
}

/// The next elements of a file, none at its end.
fn chunk(file: &mut File) -> std::io::Result<Vec<f32>> {
    let mut bytes = Vec::new();
    file.take(4 * CHUNK as u64).read_to_end(&mut bytes)?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

impl Drop for Store {
    /// What cannot be removed now goes when the next store is made here.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn products_of_vectors_longer_than_a_chunk_and_no_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("gradients");
        let n = CHUNK + 3;
        let vectors = [vec![1.0f32; n], (0..n).map(|i| (i % 5) as f32).collect(), vec![-2.0; n]];
        let mut store = Store::create(&folder).unwrap();
        vectors.iter().for_each(|v| store.push(v).unwrap());
        let products = store.products().unwrap();
        let of = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        for i in 0..3 {
            for j in 0..3 {
                let expected = of(&vectors[i], &vectors[j]);
                assert!((products[i][j] - expected).abs() <= 1e-12 * expected.abs(), "{i} {j}");
            }
        }
        drop(store);
        assert!(!folder.exists());
    }
}
