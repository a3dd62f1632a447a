"""What this computer is and how busy it is, as the kernel and the libraries say."""
