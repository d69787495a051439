# Lets a workload make a new version of its own key (`sealwire keys rotate`). Given beside
# workload.hcl where rotation by the workload itself is wanted; else the server rotates by age
# (auto_rotate_period), or an operator does.
path "TRANSIT/keys/NAME/rotate" {
  capabilities = ["update"]
}
