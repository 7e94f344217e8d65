"""What each runtime takes, one data file per target."""
