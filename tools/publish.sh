#!/usr/bin/env bash
# Put the student edition on its branch of a repository, and the tag there that setup cells install.
# usage: tools/publish.sh FOLDER REPOSITORY        (FOLDER as `make student` wrote it)
#
# The branch gets one ordinary commit on top if anything changed, never a forced push, so copies of
# it can pull. Files go from it only if an earlier edition put them there. The tag is pyproject's
# version; the same version with another labkit is refused, because notebooks would meet the wrong one.
set -euo pipefail
folder=$(realpath "$1") repository=$2 listed=student_edition.sha256
cd "$(dirname "$0")/.."
tag=v$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
if git fetch --quiet --depth 1 "$repository" "refs/tags/$tag" 2>/dev/null; then
  git diff --quiet FETCH_HEAD HEAD -- labkit || {
    echo "labkit has changed since $tag: raise version in pyproject.toml, then make stamp" >&2
    exit 1
  }
else
  git push --quiet "$repository" "HEAD:refs/tags/$tag"
fi

branch=$(mktemp -d)
trap 'rm -rf "$branch"' EXIT
git clone --quiet --depth 1 --branch student "$repository" "$branch" 2>/dev/null ||
  git init --quiet --initial-branch=student "$branch"
cd "$branch"
if [ -f $listed ]; then
  cut -c67- $listed | git rm --quiet --ignore-unmatch --pathspec-from-file=-
fi
# Wheel and zip would stay in the history of every copy; here pip takes labkit from the tag.
grep -v -e '\.whl$' -e '\.zip$' "$folder/$listed" >$listed
cut -c67- $listed | tar -C "$folder" -cf - -T - | tar -xf -
git add --all
git diff --cached --quiet || git commit --quiet --message "Student edition of $tag"
git push --quiet "$repository" HEAD:refs/heads/student
