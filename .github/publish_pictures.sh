#!/usr/bin/env bash
# Push the pictures of a folder to the branch pull-request-pictures, which has no other history, as FOLDER/*.png.
#
# publish_pictures.sh PICTURES FOLDER [REMOTE]
set -euo pipefail
pictures=$1 folder=$2 remote=${3:-origin} branch=pull-request-pictures

index=$(mktemp -u)
trap 'rm -f "$index"' EXIT
export GIT_INDEX_FILE=$index  # the working tree and its index stay as they are
parent=()
if git fetch --quiet "$remote" "$branch" 2>/dev/null; then
    git read-tree FETCH_HEAD
    parent=(-p FETCH_HEAD)
fi
for picture in "$pictures"/*.png; do
    git update-index --add --cacheinfo "100644,$(git hash-object -w "$picture"),$folder/${picture##*/}"
done
git config user.name >/dev/null || git config user.name "relearn"
git config user.email >/dev/null || git config user.email "relearn@localhost"
commit=$(git commit-tree "$(git write-tree)" "${parent[@]}" -m "Pictures of $folder")
git push --quiet "$remote" "$commit:refs/heads/$branch"
