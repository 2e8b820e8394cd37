import hashlib

from deploy.local_hub.gitobjects import commit_oid, is_lfs, lfs_pointer, object_oid, tree_oids

# As `git hash-object`, `git write-tree` and `git ls-tree` print them.
HELLO = "ce013625030ba8dba906f756967f9e9ca394464a"
HI = "45b983be36b73c0788dc9cbcb76cbb80fc7bb057"
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


def test_a_blob_has_the_id_that_git_gives_it():
    assert object_oid("blob", b"hello\n") == HELLO


def test_trees_have_the_ids_that_git_gives_them():
    oids = tree_oids({"b0": HI, "b/c/x": HELLO, "b.txt": HELLO})

    assert oids == {
        "": "1b1f945254506c88f5916aae5d64ef7993df2974",
        "b": "9951186cc31b5c2e46ab2628b35261d30bea487b",
        "b/c": "e31a96220fbfbe7601ecc086a36b96dc27a8867e",
    }


def test_no_files_make_an_empty_tree():
    assert tree_oids({}) == {"": EMPTY_TREE}


def test_names_that_are_not_text_still_have_a_tree():
    assert tree_oids({"\udcff": HELLO}) != tree_oids({"\udcfe": HELLO})


def test_a_commit_depends_on_its_tree_alone():
    assert commit_oid(EMPTY_TREE) == commit_oid(EMPTY_TREE)
    assert commit_oid(EMPTY_TREE) != commit_oid(HELLO)
    assert len(commit_oid(EMPTY_TREE)) == 40


def test_a_pointer_has_the_form_that_git_lfs_specifies():
    sha256 = hashlib.sha256(b"weights").hexdigest()

    assert lfs_pointer(sha256, 7).decode() == (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 7\n"
    )


def test_weights_and_pictures_are_large_files():
    assert is_lfs("unet/model.safetensors")
    assert is_lfs("images/ONE.PNG")
    assert not is_lfs("README.md")
    assert not is_lfs("safetensors")
